package main

import (
	"context"
	"errors"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// A Pod with this annotation set to "false" is not ready: how a test fails a readiness probe.
const readyAnnotation = "testbed.herald/ready"

// runPods gives the node's Pods their places, and keeps their status, until the context ends. A Pod
// stays Pending while no place is free, and if it wants the host's network, for no process of its
// own would run there.
func runPods(ctx context.Context, client, watcher kubernetes.Interface, self *node) error {
	factory := informers.NewSharedInformerFactoryWithOptions(watcher, 0,
		informers.WithTweakListOptions(func(options *metav1.ListOptions) {
			options.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", self.name).String()
		}))
	informer := factory.Core().V1().Pods().Informer()
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	notify := func(any) {
		select {
		case changed <- struct{}{}:
		default: // A look at all Pods is due already.
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: notify, DeleteFunc: notify, UpdateFunc: func(_, pod any) { notify(pod) },
	})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("ended before the Pods were read")
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		if err := self.settle(ctx, client, informer.GetStore().List()); err != nil {
			klog.ErrorS(err, "cannot settle the pods; trying again")
			time.AfterFunc(time.Second, func() { notify(nil) })
		}
	}
}

// settle ends Pods that are to be deleted and gives the others places, oldest name first. It may
// see a Pod as it was before the last change; the API server then refuses, and it is tried again.
func (self *node) settle(ctx context.Context, client kubernetes.Interface, seen []any) error {
	pods := make([]*corev1.Pod, 0, len(seen))
	taken := map[string]bool{}
	for _, object := range seen {
		pod := object.(*corev1.Pod)
		pods = append(pods, pod)
		if pod.Status.PodIP != "" {
			taken[pod.Status.PodIP] = true
		}
	}
	sort.Slice(pods, func(i, j int) bool {
		return pods[i].Namespace+"/"+pods[i].Name < pods[j].Namespace+"/"+pods[j].Name
	})
	var failed []error
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
			now := int64(0)
			options := metav1.DeleteOptions{
				GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
			}
			err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, options)
			if err != nil && !apierrors.IsNotFound(err) {
				failed = append(failed, err)
			}
		case pod.Spec.HostNetwork:
		case pod.Status.Phase == corev1.PodPending && pod.Status.PodIP == "":
			place := self.choose(pod.Name, taken)
			if place == nil {
				continue
			}
			taken[place.ips[0]] = true
			failed = append(failed, writeStatus(ctx, client, self.running(pod, place)))
		case pod.Status.Phase == corev1.PodRunning && isReady(pod) != wantsReady(pod):
			// The annotation has changed; or the node was cut off and its Pods marked unready.
			changed := pod.DeepCopy()
			setReady(&changed.Status, wantsReady(pod))
			failed = append(failed, writeStatus(ctx, client, changed))
		}
	}
	return errors.Join(failed...)
}

func writeStatus(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod) error {
	_, err := client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

func wantsReady(pod *corev1.Pod) bool { return pod.Annotations[readyAnnotation] != "false" }

func isReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func setReady(status *corev1.PodStatus, ready bool) {
	word := corev1.ConditionFalse
	if ready {
		word = corev1.ConditionTrue
	}
	for index := range status.Conditions {
		condition := &status.Conditions[index]
		kind := condition.Type
		if kind == corev1.PodReady || kind == corev1.ContainersReady {
			if condition.Status != word {
				condition.LastTransitionTime = metav1.Now()
			}
			condition.Status, condition.Reason, condition.Message = word, "", ""
		}
	}
	for index := range status.ContainerStatuses {
		status.ContainerStatuses[index].Ready = ready
	}
}

// choose prefers the place of the Pod's own name, so that n1-p1 the Pod is n1-p1 the namespace.
func (self *node) choose(name string, taken map[string]bool) *place {
	var first *place
	for index := range self.places {
		place := &self.places[index]
		if taken[place.ips[0]] {
			continue
		}
		if place.name == name {
			return place
		}
		if first == nil {
			first = place
		}
	}
	return first
}

func (self *node) running(pod *corev1.Pod, place *place) *corev1.Pod {
	pod, now := pod.DeepCopy(), metav1.Now()
	status := &pod.Status
	status.Phase = corev1.PodRunning
	status.StartTime = &now
	status.HostIP, status.HostIPs = self.addresses[0], nil
	for _, address := range self.addresses {
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: address})
	}
	status.PodIP, status.PodIPs = place.ips[0], nil
	for _, ip := range place.ips {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip})
	}
	status.Conditions = nil
	for _, kind := range []corev1.PodConditionType{
		corev1.PodScheduled, corev1.PodReadyToStartContainers, corev1.PodInitialized,
		corev1.ContainersReady, corev1.PodReady,
	} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{
			Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now,
		})
	}
	status.ContainerStatuses = nil
	started := true
	for _, container := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	setReady(status, wantsReady(pod))
	return pod
}
