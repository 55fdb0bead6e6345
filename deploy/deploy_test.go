// Package deploy_test compares the manifests with what the exporter needs.
package deploy_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
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
	files = append(files, filepath.Join("cronjob", "cronjob.yaml"))
	var all []runtime.Object
	for _, file := range files {
		if file == "kustomization.yaml" {
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

// The only rights granted anywhere are the few that the program needs.
func TestLeastPrivilege(t *testing.T) {
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}},
	}
	roles := 0
	for _, obj := range objects(t) {
		switch o := obj.(type) {
		case *rbacv1.ClusterRole:
			roles++
			if !reflect.DeepEqual(o.Rules, want) {
				t.Errorf("rules %+v", o.Rules)
			}
		case *rbacv1.Role:
			t.Errorf("a Role %s", o.Name)
		case *rbacv1.ClusterRoleBinding:
			if o.RoleRef.Name != "kubelogexporter" || len(o.Subjects) != 1 {
				t.Errorf("binding %+v", o)
			}
		}
	}
	if roles != 1 {
		t.Errorf("%d ClusterRoles", roles)
	}
}

// The pods meet the restricted pod security standard, with a read-only root.
func TestPodSecurity(t *testing.T) {
	pods := 0
	for _, obj := range objects(t) {
		var spec corev1.PodSpec
		switch o := obj.(type) {
		case *appsv1.Deployment:
			spec = o.Spec.Template.Spec
		case *batchv1.CronJob:
			spec = o.Spec.JobTemplate.Spec.Template.Spec
		default:
			continue
		}
		pods++
		p, c := spec.SecurityContext, spec.Containers[0].SecurityContext
		if !*p.RunAsNonRoot || *p.RunAsUser != 65532 || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("pod %+v", p)
		}
		if *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem || len(c.Capabilities.Drop) != 1 || c.Capabilities.Drop[0] != "ALL" {
			t.Errorf("container %+v", c)
		}
	}
	if pods != 2 {
		t.Errorf("%d pods in the manifests", pods)
	}
}
