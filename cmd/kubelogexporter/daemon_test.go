package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// client-go's errors are not ours: a watch that is opened again loses no bytes.
func TestClientGoIsQuiet(t *testing.T) { //nolint:paralleltest // klog has one logger for the process
	defer klog.ClearLogger()
	for level, want := range map[string]string{"info": "", "debug": "level=DEBUG"} {
		var out bytes.Buffer
		log, err := (&logFlags{format: "text", level: level}).logger(&out)
		if err != nil {
			t.Fatal(err)
		}
		quietClient(log)
		klog.ErrorS(errors.New("closed"), "Failed to watch")
		klog.Background().WithName("reflector").WithValues("k", "v").Error(nil, "again")
		klog.Flush()
		if got := out.String(); (want == "") != (got == "") || !strings.Contains(got, want) || strings.Contains(got, "ERROR") {
			t.Errorf("at level %s client-go logs %q", level, got)
		}
	}
}
