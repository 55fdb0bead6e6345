package exporter

import (
	"strings"
	"testing"
)

// Each role is made once, with all that is missing of it.
func TestAccessFix(t *testing.T) {
	lease := Permission{Verb: "get", Group: "coordination.k8s.io", Resource: "leases", Namespace: "x"}
	update := lease
	update.Verb = "update"
	e := &AccessError{Identity: "ann", Missing: append(needed("shop"), NodeLogAccess(), lease, update)}
	want := "kubectl create role kubelogexporter -n shop --verb=get,list,watch --resource=pods,pods/log && " +
		"kubectl create rolebinding kubelogexporter -n shop --role=kubelogexporter --user=ann && " +
		"kubectl create clusterrole kubelogexporter-nodes --verb=get --resource=nodes/log && " +
		"kubectl create clusterrolebinding kubelogexporter-nodes --clusterrole=kubelogexporter-nodes --user=ann && " +
		"kubectl create role kubelogexporter-leases -n x --verb=get,update --resource=leases.coordination.k8s.io && " +
		"kubectl create rolebinding kubelogexporter-leases -n x --role=kubelogexporter-leases --user=ann"
	if got := strings.Join(e.Fix(), " && "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
