package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

func status(ctx context.Context) ([]Component, error) {
	if _, err := open(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	api, err := newClient()
	if err != nil {
		return nil, err
	}
	checks := map[string]func(context.Context) error{
		"kube-apiserver":          api.ready, // fails without etcd, too
		"kube-controller-manager": api.controllersReady,
		"kube-scheduler":          api.schedulerReady,
		"kubelet":                 api.kubeletReady,
		"containerd":              containerdReady,
	}
	records, err := recorded()
	if err != nil {
		return nil, err
	}
	byName := map[string]process{}
	for _, r := range records {
		byName[r.Name] = r
	}
	var all []Component
	var bad []string
	add := func(c Component) {
		all = append(all, c)
		if c.Err != nil {
			bad = append(bad, c.Name+": "+c.Err.Error())
		}
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet"} {
		r, found := byName[name]
		c := Component{Name: name, PID: r.PID}
		switch check := checks[name]; {
		case !found:
			c.Err = errors.New("was not started")
		case !r.alive():
			c.Err = errors.New("does not run any more")
		case check != nil:
			c.Err = check(ctx)
		}
		add(c)
	}
	add(Component{Name: "node", Err: api.nodeReady(ctx)})
	if len(bad) > 0 {
		return all, fmt.Errorf("%w: %s", ErrNotUp, strings.Join(bad, "; "))
	}
	return all, nil
}
