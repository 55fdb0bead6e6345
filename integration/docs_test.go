package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// Every path of this repository that a document names exists.
func TestDocumentsNameWhatExists(t *testing.T) {
	token := regexp.MustCompile("[`(]((?:cmd|exporter|sink|deploy|integration|\\.ci)/[A-Za-z0-9_./-]*)[`)]")
	named := 0
	for _, doc := range []string{"README.md", "ARCHITECTURE.md", "AGENTS.md", "deploy/README.md"} {
		text, err := os.ReadFile(filepath.Join("..", doc))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range token.FindAllStringSubmatch(string(text), -1) {
			named++
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("%s names %s, which is not there", doc, m[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("only %d paths found in the documents: is the expression right?", named)
	}
}
