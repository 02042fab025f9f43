// Command herald-kubernetes is the control plane of the testbed: the API server, the controller
// manager, the scheduler, kube-proxy and kubectl of Kubernetes itself, unchanged, as one multi-call program.
//
// It must never change how these behave: what the tests meet is what Kubernetes does. Two calls are
// its own: "certs" writes the keys such a cluster needs (certs.go), and "node" stands in for a
// kubelet whose pods are network namespaces of the lab (node.go, pods.go). Read go.mod first: it
// pins the release, and every staging module to that same release.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// Each call builds its command only when chosen: building registers flags process-wide.
var calls = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllermanager.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kube-proxy":              proxy.NewProxyCommand,
	"kubectl":                 kubectl.NewDefaultKubectlCommand,
	"certs":                   certsCommand,
	"node":                    nodeCommand,
}

const usage = `usage: herald-kubernetes CALL [ARGUMENT...]
CALL, or the name this program is started by, is one of
kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubectl, certs, node`

func main() {
	build, named := calls[filepath.Base(os.Args[0])]
	if !named {
		if len(os.Args) < 2 || calls[os.Args[1]] == nil {
			fmt.Fprintln(os.Stderr, usage)
			os.Exit(2)
		}
		// The chosen command must see its own name first, as if it had been started by it.
		os.Args = os.Args[1:]
		build = calls[os.Args[0]]
	}
	os.Exit(cli.Run(build()))
}
