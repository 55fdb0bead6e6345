package main

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubelogexporter/kubelogexporter/sink/archive"
)

// completePatience is how long a shell waits for the archive after a TAB.
const completePatience = 2 * time.Second

// completer offers words for an argument or a flag's value.
type completer = func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective)

// complete sets how a flag's value is completed.
func complete(cmd *cobra.Command, flag string, c completer) {
	if err := cmd.RegisterFlagCompletionFunc(flag, c); err != nil {
		panic(err) // the flag is not there: a slip in this package that every test meets
	}
}

func words(w ...string) completer {
	return cobra.FixedCompletions(w, cobra.ShellCompDirectiveNoFileComp)
}

// fromArchive offers what look finds in the archive that the command line names.
func (a *app) fromArchive(cmd *cobra.Command, prefix string, look func(context.Context, *archive.Archive, func(string)) error) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completePatience)
	defer cancel()
	if a.prepare(cmd) != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var s sinkFlags
	s.fromFlags(cmd)
	if s.config == "-" {
		return nil, cobra.ShellCompDirectiveNoFileComp // nobody types it while completing
	}
	a.stderr = io.Discard // it would be in the middle of what is typed
	arc, err := a.readArchive(ctx, cmd, &s)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	found := make(map[string]bool)
	_ = look(ctx, arc, func(name string) { // what was found before an error is better than nothing
		if strings.HasPrefix(name, prefix) {
			found[name] = true
		}
	})
	return slices.Sorted(maps.Keys(found)), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeClusters(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.fromArchive(cmd, prefix, func(ctx context.Context, arc *archive.Archive, add func(string)) error {
		clusters, err := arc.Clusters(ctx)
		for _, name := range clusters {
			add(name)
		}
		return err
	})
}

func (a *app) completeNamespaces(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.fromArchive(cmd, prefix, func(ctx context.Context, arc *archive.Archive, add func(string)) error {
		clusters, err := arc.Clusters(ctx)
		for _, cluster := range clusters {
			namespaces, err := arc.Namespaces(ctx, cluster)
			if err != nil {
				return err
			}
			for _, name := range namespaces {
				add(name)
			}
		}
		return err
	})
}

func (a *app) completePods(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		if cmd.Name() == "logs" && len(args) == 1 {
			return a.completeContainers(cmd, args, prefix)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.fromArchive(cmd, prefix, func(ctx context.Context, arc *archive.Archive, add func(string)) error {
		for run, err := range arc.Runs(ctx, queryOf(cmd)) {
			if err != nil {
				return err
			}
			add(run.Key.Pod)
		}
		return nil
	})
}

func (a *app) completeContainers(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return a.fromArchive(cmd, prefix, func(ctx context.Context, arc *archive.Archive, add func(string)) error {
		q := queryOf(cmd)
		if len(args) > 0 {
			q.Pod = args[0]
		}
		for run, err := range arc.Runs(ctx, q) {
			if err != nil {
				return err
			}
			add(run.Key.Container)
		}
		return nil
	})
}

// queryOf takes from a half-typed command line where to look.
func queryOf(cmd *cobra.Command) archive.Query {
	namespaces, _ := cmd.Flags().GetStringSlice("namespace")
	cluster, _ := cmd.Flags().GetString("cluster")
	return archive.Query{Cluster: cluster, Namespaces: namespaces}
}

func (k *kubeFlags) completeContexts(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	raw, err := k.loader().RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for name := range raw.Contexts {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, cobra.ShellCompDirectiveNoFileComp
}
