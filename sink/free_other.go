//go:build !linux && !darwin

package sink

import "errors"

// free is missing here: an exporter then has no limit for free space.
func free(string) (int64, error) { return 0, errors.ErrUnsupported }
