package exporter

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
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
}

// String gives the permission in kubectl's words, such as "get pods/log in namespace shop".
func (p Permission) String() string {
	s := p.Verb + " " + p.Resource
	if p.Subresource != "" {
		s += "/" + p.Subresource
	}
	if p.Namespace == "" {
		return s + " in all namespaces"
	}
	return s + " in namespace " + p.Namespace
}

// needed are the rights that every use of the exporter needs; deploy/ grants just these.
func needed(namespace string) []Permission {
	return []Permission{
		{"list", "pods", "", namespace},
		{"watch", "pods", "", namespace},
		{"get", "pods", "", namespace},
		{"get", "pods", "log", namespace},
	}
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
func (e *AccessError) Fix() string {
	ns := e.Missing[0].Namespace
	subject := "--user=" + e.Identity
	if sa, name, ok := serviceAccount(e.Identity); ok {
		subject = "--serviceaccount=" + sa + ":" + name
	}
	kind, where := "clusterrole", ""
	if ns != "" {
		kind, where = "role", " -n "+ns
	}
	return fmt.Sprintf("kubectl create %s kubelogexporter%s --verb=get,list,watch --resource=pods,pods/log && kubectl create %sbinding kubelogexporter%s --%s=kubelogexporter %s",
		kind, where, kind, where, kind, subject)
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
	missing := &AccessError{}
	for _, p := range needed(namespace) {
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
// namespaces or, without any, in all. The error is an *AccessError if rights are missing.
func CheckAccess(ctx context.Context, config *rest.Config, namespaces []string) error {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make Kubernetes client: %w", err)
	}
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	a := newAccess(kube, slog.New(slog.DiscardHandler))
	for _, ns := range namespaces {
		if err := a.check(ctx, ns); err != nil {
			return err
		}
	}
	return nil
}

func (a *access) may(ctx context.Context, p Permission) (bool, error) {
	r, err := a.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authzv1.SelfSubjectAccessReview{
		Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authzv1.ResourceAttributes{
			Namespace: p.Namespace, Verb: p.Verb, Resource: p.Resource, Subresource: p.Subresource,
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
		args = []any{"namespace", namespace, "err", missing, "fix", missing.Fix()}
	}
	a.log.Warn("access refused, will go on trying", args...)
}

// serviceAccount splits the user name of a service account.
func serviceAccount(user string) (namespace, name string, ok bool) {
	const prefix = "system:serviceaccount:"
	if len(user) <= len(prefix) || user[:len(prefix)] != prefix {
		return "", "", false
	}
	for i := len(prefix); i < len(user); i++ {
		if user[i] == ':' {
			return user[len(prefix):i], user[i+1:], true
		}
	}
	return "", "", false
}
