// Package deploy_test compares the manifests with what the exporter needs.
package deploy_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

// objects reads all manifests of this folder, except kustomize's own files.
func objects(t *testing.T) []runtime.Object {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	below, err := filepath.Glob("*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, below...)
	var all []runtime.Object
	for _, file := range files {
		if dir := filepath.Dir(file); filepath.Base(file) == "kustomization.yaml" || dir == "examples" || file == "config-file/config.yaml" || dir == "prometheus" { // these are configurations, and of no kind of Kubernetes' own
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		docs := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
		for {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(doc, nil, nil)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			all = append(all, obj)
		}
	}
	if len(all) < 7 {
		t.Fatalf("%d objects in the manifests", len(all))
	}
	return all
}

// The only rights granted anywhere are the few that the program needs; the nodes' files are for those
// who ask for them, and one Lease is for those who have schedules.
func TestLeastPrivilege(t *testing.T) {
	want := map[string][]rbacv1.PolicyRule{
		"kubelogexporter": {
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}},
			{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}},
		},
		"kubelogexporter-node-logs": {{APIGroups: []string{""}, Resources: []string{"nodes/log"}, Verbs: []string{"get"}}},
	}
	account := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "kubelogexporter", Namespace: "kubelogexporter"}}
	roles, bindings := 0, 0
	for _, obj := range objects(t) {
		switch o := obj.(type) {
		case *rbacv1.ClusterRole:
			roles++
			if !reflect.DeepEqual(o.Rules, want[o.Name]) {
				t.Errorf("rules %+v", o.Rules)
			}
			if o.AggregationRule != nil || len(o.Labels) != 0 {
				t.Errorf("aggregation %+v, labels %v", o.AggregationRule, o.Labels) // either can add rights
			}
		case *rbacv1.Role:
			lease := func(names []string, verbs ...string) rbacv1.PolicyRule {
				return rbacv1.PolicyRule{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: names, Verbs: verbs}
			}
			if want := []rbacv1.PolicyRule{lease(nil, "create"), lease([]string{"kubelogexporter-schedules"}, "get", "update")}; !reflect.DeepEqual(o.Rules, want) {
				t.Errorf("rules %+v", o.Rules)
			}
		case *rbacv1.RoleBinding:
			role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "kubelogexporter-schedules"}
			if o.RoleRef != role || !reflect.DeepEqual(o.Subjects, account) {
				t.Errorf("binding %+v", o)
			}
		case *rbacv1.ClusterRoleBinding:
			bindings++
			role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: o.Name}
			if o.RoleRef != role || !reflect.DeepEqual(o.Subjects, account) {
				t.Errorf("binding %+v", o)
			}
		}
	}
	if roles != len(want) || bindings != len(want) {
		t.Errorf("%d ClusterRoles, %d bindings", roles, bindings)
	}
}

// podSpecs returns the pods that the manifests make.
func podSpecs(t *testing.T) (specs []corev1.PodSpec) {
	t.Helper()
	for _, obj := range objects(t) {
		switch o := obj.(type) {
		case *appsv1.Deployment:
			specs = append(specs, o.Spec.Template.Spec)
		case *batchv1.CronJob:
			specs = append(specs, o.Spec.JobTemplate.Spec.Template.Spec)
		}
	}
	return specs
}

// The pods meet the restricted pod security standard, with a read-only root.
func TestPodSecurity(t *testing.T) {
	pods := podSpecs(t)
	for _, spec := range pods {
		p, c := spec.SecurityContext, spec.Containers[0].SecurityContext
		if !*p.RunAsNonRoot || *p.RunAsUser != 65532 || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("pod %+v", p)
		}
		if *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem || len(c.Capabilities.Drop) != 1 || c.Capabilities.Drop[0] != "ALL" {
			t.Errorf("container %+v", c)
		}
	}
	if len(pods) != 2 {
		t.Errorf("%d pods in the manifests", len(pods))
	}
}

// argument returns what a container's flag is set to.
func argument(c *corev1.Container, flag string) string {
	if i := slices.Index(c.Args, flag); i >= 0 && i+1 < len(c.Args) {
		return c.Args[i+1]
	}
	return ""
}

// The kubelet evicts a pod whose emptyDir has outgrown its limit, and the spool is lost with it. So the spool is
// bounded below that, with room for what is written at the moment.
func TestSpoolFitsItsVolume(t *testing.T) {
	pods := podSpecs(t)
	for _, spec := range pods {
		bound, err := resource.ParseQuantity(argument(&spec.Containers[0], "--spool-max-size"))
		if err != nil {
			t.Fatalf("arguments %v: %v", spec.Containers[0].Args, err)
		}
		limit := *spec.Volumes[0].EmptyDir.SizeLimit
		if bound.Add(resource.MustParse("512Mi")); bound.Cmp(limit) > 0 {
			t.Errorf("the spool may grow to 512Mi below %s, its volume to %s", bound.String(), limit.String())
		}
	}
	claims := 0
	for _, obj := range objects(t) {
		if claim, ok := obj.(*corev1.PersistentVolumeClaim); ok {
			claims++
			if size := claim.Spec.Resources.Requests[corev1.ResourceStorage]; size.Cmp(*pods[0].Volumes[0].EmptyDir.SizeLimit) < 0 {
				t.Errorf("a claim of %s", size.String())
			}
		}
	}
	if len(pods) != 2 || claims != 1 {
		t.Errorf("%d pods and %d claims in the manifests", len(pods), claims)
	}
}

// METRICS.md names the alerts that are shipped, and all of them are.
func TestAlerts(t *testing.T) {
	data, err := os.ReadFile("prometheus/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Spec struct {
			Groups []struct {
				Rules []struct{ Alert, Expr string } `json:"rules"`
			} `json:"groups"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &rules); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("METRICS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## Worth an alert\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var documented, shipped []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(section, -1) {
		documented = append(documented, m[1])
	}
	for _, group := range rules.Spec.Groups {
		for _, rule := range group.Rules {
			shipped = append(shipped, rule.Expr)
		}
	}
	if !slices.Equal(documented, shipped) || len(shipped) == 0 {
		t.Errorf("documented:\n%s\nshipped:\n%s", strings.Join(documented, "\n"), strings.Join(shipped, "\n"))
	}
}

// S3 follows the shorter of two rules for an object, so no rule of the example may enclose another.
func TestLifecycleExample(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "<<'END'\n")
	example, _, _ := strings.Cut(rest, "\nEND\n")
	var lifecycle struct {
		Rules []struct {
			ID, Status string
			Filter     struct{ Prefix string }
			Expiration struct{ Days int }
		}
	}
	if err := json.Unmarshal([]byte(example), &lifecycle); err != nil {
		t.Fatalf("%v\n%s", err, example)
	}
	if len(lifecycle.Rules) < 2 {
		t.Fatalf("rules %+v", lifecycle.Rules)
	}
	for i, a := range lifecycle.Rules {
		for j, b := range lifecycle.Rules {
			if i != j && strings.HasPrefix(a.Filter.Prefix, b.Filter.Prefix) {
				t.Errorf("rule %s lies within %s", a.ID, b.ID)
			}
		}
	}
}

// kubectl apply -k reads no file outside the folder it is given; it does take another folder that
// does not contain it.
func TestKustomizations(t *testing.T) {
	for _, dir := range []string{".", "base", "cronjob"} {
		data, err := os.ReadFile(filepath.Join(dir, "kustomization.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		var k struct {
			Resources []string `json:"resources"`
		}
		if err := yaml.Unmarshal(data, &k); err != nil {
			t.Fatal(err)
		}
		if len(k.Resources) == 0 {
			t.Errorf("%s has no resources", dir)
		}
		for _, r := range k.Resources {
			info, err := os.Stat(filepath.Join(dir, r))
			switch {
			case err != nil:
				t.Error(err)
			case !info.IsDir() && !filepath.IsLocal(r):
				t.Errorf("%s names the file %s, which is outside of it", dir, r)
			case info.IsDir() && filepath.Join(dir, r) == ".":
				t.Errorf("%s names the folder it lies in", dir)
			}
		}
	}
}
