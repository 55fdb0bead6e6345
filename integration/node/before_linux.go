package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// before is what the machine looked like before the node came, in the places
// outside the node's own folder that the kubelet and CNI write to and that
// cannot be configured away. Down puts it back.
type before struct {
	// Entries maps a folder to what was in it; a folder that is not in the
	// map did not exist.
	Entries map[string][]string
	// Settings maps a file of /proc/sys to its content.
	Settings map[string]string
}

// sharedFolders are ordered: a folder comes after those inside it.
func sharedFolders() []string {
	return []string{
		// The standard place, not one of our own, because the kubelet's
		// /logs/ endpoint serves /var/log only and log shippers look here.
		"/var/log/pods", "/var/log/containers",
		// The kubelet's device manager ignores --root-dir.
		"/var/lib/kubelet/device-plugins", "/var/lib/kubelet",
		// libcni's cache; containerd does not let one choose it.
		"/var/lib/cni/results", "/var/lib/cni",
	}
}

// sharedSettings are what the kubelet sets (setupKernelTunables in
// pkg/kubelet/cm/container_manager_linux.go). net.ipv4.ip_forward is left
// alone on purpose: Docker may have come to rely on it since.
func sharedSettings() []string {
	return []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}
}

func lookBefore() (before, error) {
	b := before{Entries: map[string][]string{}, Settings: map[string]string{}}
	for _, folder := range sharedFolders() {
		entries, err := os.ReadDir(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return b, fmt.Errorf("look at folder: %w", err)
		}
		b.Entries[folder] = []string{}
		for _, e := range entries {
			b.Entries[folder] = append(b.Entries[folder], e.Name())
		}
	}
	for _, name := range sharedSettings() {
		data, err := os.ReadFile("/proc/sys/" + name)
		if err == nil {
			b.Settings[name] = strings.TrimSpace(string(data))
		}
	}
	return b, nil
}

func (b before) restore() error {
	for _, folder := range sharedFolders() {
		kept, existed := b.Entries[folder]
		if !existed {
			if err := os.RemoveAll(folder); err != nil {
				return fmt.Errorf("remove folder: %w", err)
			}
			continue
		}
		keep := map[string]bool{}
		for _, name := range kept {
			keep[name] = true
		}
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look at folder: %w", err)
		}
		for _, e := range entries {
			if keep[e.Name()] {
				continue
			}
			if err := os.RemoveAll(filepath.Join(folder, e.Name())); err != nil {
				return fmt.Errorf("remove folder: %w", err)
			}
		}
	}
	for name, value := range b.Settings {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
			return fmt.Errorf("restore setting: %w", err)
		}
	}
	return nil
}
