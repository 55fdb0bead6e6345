package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// plainMode is the first argument that makes this program the plain client: one that reads a log
// once, when the pod's status says that the container has ended.
const plainMode = "plain"

func plain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(plainMode, flag.ContinueOnError)
	kubeconfig := flags.String("kubeconfig", "", "")
	namespace := flags.String("namespace", "", "")
	dir := flags.String("dir", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	watch, err := kube.CoreV1().Pods(*namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer watch.Stop()
	seen := make(map[string]bool)
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-watch.ResultChan():
			pod, isPod := e.Object.(*corev1.Pod)
			if !ok || !isPod {
				return errors.New("watch pods: the watch ended")
			}
			for _, s := range pod.Status.ContainerStatuses {
				for previous, t := range map[bool]*corev1.ContainerStateTerminated{false: s.State.Terminated, true: s.LastTerminationState.Terminated} {
					if t == nil || seen[t.ContainerID] {
						continue
					}
					seen[t.ContainerID] = true
					o := &corev1.PodLogOptions{Container: s.Name, Timestamps: true, Previous: previous && s.State.Running != nil}
					go fetch(ctx, kube, pod, o, filepath.Join(*dir, pod.Name+"."+strings.TrimPrefix(t.ContainerID, "containerd://")))
				}
			}
		}
	}
}

// fetch reads a log into a file.
func fetch(ctx context.Context, kube kubernetes.Interface, pod *corev1.Pod, o *corev1.PodLogOptions, file string) {
	err := func() error {
		body, err := kube.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, o).Stream(ctx)
		if err != nil {
			return err
		}
		defer body.Close()        //nolint:errcheck // read only
		f, err := os.Create(file) //nolint:gosec // the caller's folder
		if err != nil {
			return err
		}
		_, err = io.Copy(f, body)
		return errors.Join(err, f.Close())
	}()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", pod.Name, err)
	}
}
