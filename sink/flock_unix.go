//go:build unix

package sink

import (
	"errors"
	"os"
	"syscall"
)

// flock locks a file until it is closed or its process ends, however that ends.
func flock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a descriptor fits
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return err
}
