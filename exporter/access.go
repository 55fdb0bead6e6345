package exporter

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Permission is one right that the exporter needs.
type Permission struct {
	Verb, Resource, Subresource string
	Namespace                   string // empty for all
	Group                       string // of the resource; empty for Kubernetes' core
	Name                        string // of the one object that is meant; empty for all
}

// resource is the whole name of the resource, as kubectl takes it.
func (p Permission) resource() string {
	s := p.Resource
	if p.Group != "" {
		s += "." + p.Group
	}
	if p.Subresource != "" {
		s += "/" + p.Subresource
	}
	return s
}

// String gives the permission in kubectl's words, such as "get pods/log in namespace shop".
func (p Permission) String() string {
	s := p.Verb + " " + p.resource()
	switch {
	case p.Namespace != "":
		return s + " in namespace " + p.Namespace
	case p.Resource == "nodes": // they are in no namespace
		return s
	}
	return s + " in all namespaces"
}

// needed are the rights that every use of the exporter needs; deploy/ grants just these.
func needed(namespace string) []Permission {
	return []Permission{
		{Verb: "list", Resource: "pods", Namespace: namespace},
		{Verb: "watch", Resource: "pods", Namespace: namespace},
		{Verb: "get", Resource: "pods", Namespace: namespace},
		{Verb: "get", Resource: "pods", Subresource: "log", Namespace: namespace},
	}
}

// NodeLogAccess is the right that NodeLogs needs, beyond those that every use of the exporter needs.
func NodeLogAccess() Permission {
	return Permission{Verb: "get", Resource: "nodes", Subresource: "log"}
}

// AccessError says which rights an identity lacks, and how to grant them.
type AccessError struct {
	Identity string // as the API server knows it; empty if it does not say
	Missing  []Permission
}

func (e *AccessError) Error() string {
	who := e.Identity
	if who == "" {
		who = "this identity"
	}
	s := who + " may not"
	for i, p := range e.Missing {
		if i > 0 {
			s += ","
		}
		s += " " + p.String()
	}
	return s
}

// lacks says whether one of the verbs on pods themselves is missing.
func (e *AccessError) lacks(verbs ...string) bool {
	return slices.ContainsFunc(e.Missing, func(p Permission) bool {
		return p.Subresource == "" && slices.Contains(verbs, p.Verb)
	})
}

// Fix returns the kubectl commands that grant what is missing.
func (e *AccessError) Fix() (steps []string) {
	subject := "--user=" + e.Identity
	if sa, name, ok := serviceAccount(e.Identity); ok {
		subject = "--serviceaccount=" + sa + ":" + name
	}
	done := make(map[string]bool)
	for _, p := range e.Missing {
		name, what := "kubelogexporter", "--verb=get,list,watch --resource=pods,pods/log"
		if p.Resource != "pods" {
			name, what = name+"-"+p.Resource, fmt.Sprintf("--verb=%s --resource=%s", strings.Join(e.verbs(p), ","), p.resource())
		}
		kind, where := "clusterrole", ""
		if p.Namespace != "" {
			kind, where = "role", " -n "+p.Namespace
		}
		if role := name + where; !done[role] {
			done[role] = true
			steps = append(steps, fmt.Sprintf("kubectl create %s %s%s %s", kind, name, where, what),
				fmt.Sprintf("kubectl create %sbinding %s%s --%s=%s %s", kind, name, where, kind, name, subject))
		}
	}
	return steps
}

// verbs lists those that are missing for the resource of one right.
func (e *AccessError) verbs(of Permission) (verbs []string) {
	for _, p := range e.Missing {
		if p.resource() == of.resource() && p.Namespace == of.Namespace {
			verbs = append(verbs, p.Verb)
		}
	}
	return verbs
}

// access finds out what the identity may do and says it once.
type access struct {
	kube kubernetes.Interface
	log  *slog.Logger

	mu   sync.Mutex
	told map[string]time.Time // namespace → when a refusal was last told
}

func newAccess(kube kubernetes.Interface, log *slog.Logger) *access {
	return &access{kube: kube, log: log, told: make(map[string]time.Time)}
}

// check returns an *AccessError if rights are missing in the namespace (empty: in all namespaces).
func (a *access) check(ctx context.Context, namespace string) error {
	return a.require(ctx, needed(namespace))
}

func (a *access) require(ctx context.Context, all []Permission) error {
	missing := &AccessError{}
	for _, p := range all {
		ok, err := a.may(ctx, p)
		if err != nil {
			return err
		}
		if !ok {
			missing.Missing = append(missing.Missing, p)
		}
	}
	if len(missing.Missing) == 0 {
		return nil
	}
	missing.Identity = a.identity(ctx)
	return missing
}

// CheckAccess asks the API server whether the identity has the rights that the exporter needs, in the
// namespaces or, without any, in all, and more rights. The error is an *AccessError if some are missing.
func CheckAccess(ctx context.Context, config *rest.Config, namespaces []string, more ...Permission) error {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make Kubernetes client: %w", err)
	}
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	var all []Permission
	for _, ns := range namespaces {
		all = append(all, needed(ns)...)
	}
	return newAccess(kube, slog.New(slog.DiscardHandler)).require(ctx, append(all, more...))
}

func (a *access) may(ctx context.Context, p Permission) (bool, error) {
	r, err := a.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authzv1.SelfSubjectAccessReview{
		Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authzv1.ResourceAttributes{
			Namespace: p.Namespace, Verb: p.Verb, Group: p.Group, Resource: p.Resource, Subresource: p.Subresource, Name: p.Name,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	return r.Status.Allowed, nil
}

// identity asks the API server who we are; it answers everybody who is authenticated.
func (a *access) identity(ctx context.Context) string {
	r, err := a.kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authnv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return ""
	}
	return r.Status.UserInfo.Username
}

// forbidden tells, at most once a minute for a namespace, what a refused log request lacked.
func (a *access) forbidden(ctx context.Context, namespace string, cause error) {
	a.mu.Lock()
	if time.Since(a.told[namespace]) < time.Minute {
		a.mu.Unlock()
		return
	}
	a.told[namespace] = time.Now()
	a.mu.Unlock()
	a.tell(namespace, cause, a.check(ctx, namespace))
}

func (a *access) tell(namespace string, cause, checked error) {
	args := []any{"namespace", namespace, "err", cause}
	if missing, ok := checked.(*AccessError); ok { //nolint:errorlint // check returns it as it is
		args = []any{"namespace", namespace, "err", missing, "fix", strings.Join(missing.Fix(), " && ")}
		if slices.ContainsFunc(missing.Missing, func(p Permission) bool { return p.Namespace == "" }) {
			args = append(args, "or", "name the namespaces that it may see")
		}
	}
	a.log.Warn("access refused, will go on trying", args...)
}

// serviceAccount splits the user name of a service account.
func serviceAccount(user string) (namespace, name string, ok bool) {
	rest, ok := strings.CutPrefix(user, "system:serviceaccount:")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, ":")
}
