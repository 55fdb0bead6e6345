package config_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kubelogexporter/kubelogexporter/exporter/config"
)

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s is not what the code gives:\n%s\nrun UPDATE_GOLDEN=1 go test ./exporter/config, and look at the difference", file, got)
	}
}

func TestSchemaIsCurrent(t *testing.T) {
	got, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "schema.json", got)
}

func TestReferenceIsCurrent(t *testing.T) { golden(t, "CONFIG.md", config.Reference()) }

// Each file of mistakes gives the messages beside it, all of them in one go.
func TestMistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := config.Parse(text, config.Options{File: filepath.Base(file)})
			if err == nil {
				err = c.Warnings
			}
			golden(t, file+".golden", []byte(err.Error()+"\n"))
		})
	}
}
