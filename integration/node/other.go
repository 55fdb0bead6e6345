//go:build !linux

package node

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"
)

func supported() error {
	return fmt.Errorf("run a kubernetes node: it needs linux and this is %s: use a Linux machine or a virtual machine and run it there as root", runtime.GOOS)
}

func up(context.Context, Options) (*Node, error)                     { return nil, supported() }
func down(context.Context, io.Writer) error                          { return supported() }
func open() (*Node, error)                                           { return nil, supported() }
func status(context.Context) ([]Component, error)                    { return nil, supported() }
func (n *Node) restart(context.Context, string, time.Duration) error { return supported() }
func (n *Node) Load(context.Context, string) error                   { return supported() }
