// Command cluster is every Kubernetes component that a test node needs, etcd
// and kubectl included, as one program that runs the component named by its
// own file name or by its first argument. It never holds a default of its own:
// each component gets exactly the arguments it would get from its upstream
// binary.
//
// One binary, because the components share most of their code: linked apart
// they would take five times the disk and most of the build time is linking.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	// The components' own main packages import these for their side effects:
	// JSON logging, client-go and version metrics.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

func main() {
	if run(filepath.Base(os.Args[0]), os.Args) {
		return
	}
	if len(os.Args) > 1 && run(os.Args[1], os.Args[1:]) {
		return
	}
	usage(os.Stderr)
	os.Exit(2)
}

// run runs the component called name with args, where args[0] is the program
// name. It reports false when there is no such component and otherwise returns
// only if the component succeeds.
func run(name string, args []string) bool {
	// cobra and etcd read os.Args themselves.
	os.Args = args
	switch name {
	case "etcd":
		etcdmain.Main(args)
	case "kube-apiserver":
		execute(apiserver.NewAPIServerCommand())
	case "kube-controller-manager":
		execute(controllers.NewControllerManagerCommand())
	case "kube-scheduler":
		execute(scheduler.NewSchedulerCommand())
	case "kubelet":
		execute(kubelet.NewKubeletCommand(context.Background()))
	case "kubectl":
		kubectlutil.CheckErr(cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()))
	default:
		return false
	}
	return true
}

func execute(command *cobra.Command) {
	if code := cli.Run(command); code != 0 {
		os.Exit(code)
	}
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "usage: cluster etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubelet|kubectl [arguments]")
}
