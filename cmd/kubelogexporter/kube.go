package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the logins of cloud providers
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kubelogexporter/kubelogexporter/sink/bundle"
)

// kubeFlags say which cluster and which of its pods.
type kubeFlags struct {
	kubeconfig, context string
	cluster             string
	namespaces          []string
	all                 bool
	selector            string
}

func (k *kubeFlags) register(a *app, cmd *cobra.Command, allByDefault bool) {
	k.registerAccess(cmd)
	f := cmd.Flags()
	f.StringVar(&k.cluster, "cluster", "", "`name` of the cluster in the archive (default: the kubeconfig's name for it; in a pod \"default\")")
	where := "namespace(s) to take pods from (default: the kubeconfig's)"
	if allByDefault {
		where = "namespace(s) to watch (default: all; where the identity may not, those that it may see, which takes the right to list namespaces, else the kubeconfig's)"
	}
	f.StringSliceVarP(&k.namespaces, "namespace", "n", nil, where)
	f.BoolVarP(&k.all, "all-namespaces", "A", allByDefault, "all namespaces")
	f.StringVarP(&k.selector, "selector", "l", "", "label `selector` of the pods, such as app=cart,tier!=cache")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	complete(cmd, "namespace", a.completeNamespaces)
}

// registerAccess adds the flags that say which cluster.
func (k *kubeFlags) registerAccess(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.kubeconfig, "kubeconfig", "", "kubeconfig `file` (default: $KUBECONFIG, then ~/.kube/config; in a pod the service account)")
	cmd.Flags().StringVar(&k.context, "context", "", "kubeconfig `context` to use")
	complete(cmd, "context", k.completeContexts)
}

// kubeTarget is the cluster that the flags and the kubeconfig lead to.
type kubeTarget struct {
	config    *rest.Config
	cluster   string // its name in the archive
	namespace string // the default one
	identity  string // as the kubeconfig names it
	pod       bool   // it is that of the pod which this process runs in
}

// load finds the cluster. It does not talk to it.
func (k *kubeFlags) load() (*kubeTarget, error) {
	t, err := k.find()
	if err != nil {
		return nil, err
	}
	if k.cluster != "" {
		t.cluster = k.cluster
	}
	if err := bundle.CheckCluster(t.cluster); err != nil {
		return nil, usagef("--cluster: %w", err)
	}
	return t, nil
}

func (k *kubeFlags) find() (*kubeTarget, error) {
	if k.kubeconfig == "" && k.context == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		config, err := rest.InClusterConfig()
		if err == nil {
			return &kubeTarget{config: config, cluster: "default", namespace: podNamespace(), identity: "the pod's service account", pod: true}, nil
		}
		if !errors.Is(err, rest.ErrNotInCluster) {
			return nil, fmt.Errorf("load service account: %w", err)
		}
	}
	loader := k.loader()
	raw, err := loader.RawConfig()
	if err != nil {
		return nil, kubeconfigError(err)
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, kubeconfigError(err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, kubeconfigError(err)
	}
	name := raw.CurrentContext
	if k.context != "" {
		name = k.context
	}
	t := &kubeTarget{config: config, cluster: "default", namespace: namespace}
	if c := raw.Contexts[name]; c != nil {
		t.cluster, t.identity = clusterName(c.Cluster), c.AuthInfo
	}
	return t, nil
}

func (k *kubeFlags) loader() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = k.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: k.context})
}

func kubeconfigError(err error) error {
	e := &codeError{error: fmt.Errorf("load kubeconfig: %w", err), code: exitError}
	switch {
	case clientcmd.IsEmptyConfig(err):
		e.error = errors.New("load kubeconfig: there is none, and this is not a pod")
		e.hints = []string{
			"name one with --kubeconfig or KUBECONFIG, or put it at ~/.kube/config",
			"ls and logs read an archive without a cluster",
		}
	case errors.Is(err, os.ErrNotExist):
		e.hints = []string{"name an existing file with --kubeconfig or KUBECONFIG"}
	case clientcmd.IsContextNotFound(err) || strings.Contains(err.Error(), "context"):
		e.hints = []string{"kubectl config get-contexts lists the contexts there are"}
	}
	return e
}

// podNamespace is the namespace of the pod that this process runs in.
func podNamespace() string {
	data, err := os.ReadFile("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
	if err != nil {
		return "default"
	}
	return strings.TrimSpace(string(data))
}

// clusterName turns a kubeconfig's name for a cluster, often an ARN or a URL, into one that keys take.
func clusterName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	var parts []string
	for part := range strings.SplitSeq(name, ".") {
		if part = strings.Trim(part, "-"); part != "" {
			parts = append(parts, part)
		}
	}
	name = strings.Join(parts, ".")
	if len(name) > 63 {
		name = strings.Trim(name[len(name)-63:], "-.") // the end tells clusters apart, the beginning is the provider's
	}
	if name == "" {
		return "default"
	}
	return name
}

// labels returns the selector, nil for all pods.
func (k *kubeFlags) labels() (labels.Selector, error) {
	if k.selector == "" {
		return nil, nil //nolint:nilnil // nil is a selector: all
	}
	s, err := labels.Parse(k.selector)
	if err != nil {
		return nil, usagef("--selector: %w", err)
	}
	return s, nil
}
