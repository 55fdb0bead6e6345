//go:build !unix

package sink

import (
	"errors"
	"os"
)

// flock is missing where there is no flock(2): archives can be read there, and no exporter runs.
func flock(*os.File) error { return errors.ErrUnsupported }
