package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	// lockFile is locked by the program that starts or stops the node.
	lockFile = "/run/" + Name + ".lock"
	// usersFile is locked, shared, by every program that uses the node. It is
	// touched only by a holder of the other lock.
	usersFile = "/run/" + Name + ".users"
)

// lock makes sure that one program at a time starts or stops the node; test
// binaries of several packages run at once. The kernel drops it when its
// holder dies.
func lock(ctx context.Context, p *progress) (unlock func(), err error) {
	said := false
	for {
		f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("lock node: %w", err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			// The file may have been removed by its last holder in between,
			// then this lock excludes nobody.
			ours, err := f.Stat()
			now, gone := os.Stat(lockFile)
			if err == nil && gone == nil && os.SameFile(ours, now) {
				return func() {
					_ = os.Remove(lockFile) // the next caller takes it over
					f.Close()
				}, nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock node: %w", err)
		}
		if !said {
			p.say("waiting for another program that starts or stops the node")
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock node: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// use marks the node as used by this program, until Close or its end. It is a
// bare descriptor because an os.File gives up its lock when it is collected.
func (n *Node) use() (*Node, error) {
	fd, err := syscall.Open(usersFile, syscall.O_CREAT|syscall.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("mark node as used: %w", err)
	}
	if err := syscall.Flock(fd, syscall.LOCK_SH|syscall.LOCK_NB); err != nil {
		_ = syscall.Close(fd)
		return nil, fmt.Errorf("mark node as used: %w", err)
	}
	n.release = func() error { return syscall.Close(fd) }
	return n, nil
}

// unused waits until no program uses the node. The caller holds the lock, so
// that there will be no new ones.
func unused(ctx context.Context, p *progress) error {
	f, err := os.OpenFile(usersFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("wait for users of the node: %w", err)
	}
	defer f.Close()
	for said := false; ; said = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("wait for users of the node: %w", err)
		}
		if !said {
			p.say("waiting for programs that use the node; \"lslocks\" lists them by %s", usersFile)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for users of the node: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
