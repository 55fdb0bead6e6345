package exporter

import (
	"flag"
	"os"
	"testing"
)

// TestMain lets more tests wait side by side than there are processors: they wait for logs to settle,
// most of their time.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		if err := f.Value.Set("12"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
