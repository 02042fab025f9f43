package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// The kubelet's own defaults: a node is found dead as late, and as early, as a real one.
const (
	leaseSeconds  = 40
	leaseRenewal  = 10 * time.Second
	statusRenewal = 10 * time.Second
)

// A node is what a kubelet would know about its machine.
type node struct {
	name      string
	addresses []string
	podCIDRs  []string
	places    []place
}

// A place is a network namespace of the lab in which one pod can be.
type place struct {
	name string
	ips  []string
}

// nodeCommand stands in for a kubelet where pods are network namespaces that exist already: it
// registers the Node, keeps it Ready with the kubelet's own lease code, and gives each Pod bound
// to the node one of the places it was told of. It runs no containers. It authenticates as the
// node, so that the Node authorizer and NodeRestriction watch over it.
func nodeCommand() *cobra.Command {
	var self node
	var kubeconfig string
	var places []string
	command := &cobra.Command{
		Use:          "node",
		Short:        "Stand in for a kubelet",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			for _, text := range places {
				name, ips, found := strings.Cut(text, "=")
				if !found {
					return fmt.Errorf("--pod %q: expected NAME=ADDRESS+ADDRESS", text)
				}
				self.places = append(self.places, place{name, strings.Split(ips, "+")})
			}
			return runNode(genericapiserver.SetupSignalContext(), kubeconfig, &self)
		},
	}
	flags := command.Flags()
	flags.StringVar(&kubeconfig, "kubeconfig", "", "credentials of the node")
	flags.StringVar(&self.name, "name", "", "name of the Node")
	flags.StringSliceVar(&self.addresses, "address", nil, "InternalIP of the Node")
	flags.StringSliceVar(&self.podCIDRs, "pod-cidr", nil, "range of its pods' addresses")
	flags.StringSliceVar(&places, "pod", nil, "place for a pod, as NAME=ADDRESS+ADDRESS")
	return command
}

func runNode(ctx context.Context, kubeconfig string, self *node) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", kubeconfig, err)
	}
	// As the kubelet does: a request to a server that has gone silent must not last for ever.
	config.Timeout = leaseRenewal
	config.Dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	// Watches are long, so the limit above is not for them.
	config.Timeout = 0
	watcher, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	leases := lease.NewController(clock.RealClock{}, client, self.name, leaseSeconds, nil,
		leaseRenewal, self.name, corev1.NamespaceNodeLease, nil)
	go leases.Run(ctx)
	go wait.UntilWithContext(ctx, func(ctx context.Context) {
		if err := self.report(ctx, client); err != nil {
			klog.ErrorS(err, "cannot report the node's status")
		}
	}, statusRenewal)
	return runPods(ctx, client, watcher, self)
}

// report registers the Node if it is not there, and says Ready if it does not say so.
func (self *node) report(ctx context.Context, client kubernetes.Interface) error {
	nodes := client.CoreV1().Nodes()
	seen, err := nodes.Get(ctx, self.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		seen, err = nodes.Create(ctx, self.registration(), metav1.CreateOptions{})
	}
	if err != nil {
		return err
	}
	for _, condition := range seen.Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue &&
			time.Since(condition.LastHeartbeatTime.Time) < 5*time.Minute {
			return nil
		}
	}
	changed := seen.DeepCopy()
	changed.Status.Conditions = conditions(seen.Status.Conditions)
	_, err = nodes.UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		return errors.Join(err, errors.New("it will be tried again"))
	}
	return err
}

func (self *node) registration() *corev1.Node {
	addresses := []corev1.NodeAddress{}
	for _, address := range self.addresses {
		addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	addresses = append(addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: self.name})
	room := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("4"),
		corev1.ResourceMemory: resource.MustParse("8Gi"),
		corev1.ResourcePods:   resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: self.name, Labels: map[string]string{
			corev1.LabelHostname: self.name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Spec: corev1.NodeSpec{PodCIDR: self.podCIDRs[0], PodCIDRs: self.podCIDRs},
		Status: corev1.NodeStatus{
			Addresses: addresses, Capacity: room, Allocatable: room,
			Conditions: conditions(nil),
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: version.Get().GitVersion, OSImage: "a network namespace",
				OperatingSystem: "linux", Architecture: "amd64", ContainerRuntimeVersion: "none://0",
			},
		},
	}
}

// conditions are those of a healthy node; transitions keep their time while nothing changes.
func conditions(before []corev1.NodeCondition) []corev1.NodeCondition {
	now := metav1.Now()
	healthy := []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "Sufficient"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "Sufficient"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "Sufficient"},
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "TestbedReady"},
	}
	kept := []corev1.NodeCondition{}
	for _, old := range before {
		known := false
		for index := range healthy {
			if healthy[index].Type == old.Type {
				known = true
				if healthy[index].Status == old.Status {
					healthy[index].LastTransitionTime = old.LastTransitionTime
				}
			}
		}
		// NetworkUnavailable and the like belong to whoever set them.
		if !known {
			kept = append(kept, old)
		}
	}
	for index := range healthy {
		healthy[index].LastHeartbeatTime = now
		if healthy[index].LastTransitionTime.IsZero() {
			healthy[index].LastTransitionTime = now
		}
	}
	return append(healthy, kept...)
}
