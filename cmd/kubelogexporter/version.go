package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the release build: -ldflags "-X main.version=v1.2.3".
var version string

// versionInfo says which build this is.
type versionInfo struct {
	Version   string `json:"version"`
	Revision  string `json:"revision,omitempty"`
	Modified  bool   `json:"modified,omitempty"` // built from a checkout with changes
	Time      string `json:"time,omitempty"`     // of the revision
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
}

func buildVersion() versionInfo {
	v := versionInfo{Version: version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if v.Version == "" && info.Main.Version != "(devel)" {
			v.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.time":
				v.Time = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	if v.Version == "" {
		v.Version = "devel"
	}
	return v
}

func newVersionCommand(a *app) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  argCount(0, 0, "no arguments"),
		RunE: a.begin(func(*cobra.Command, []string) error {
			v := buildVersion()
			return printAs(a.stdout, output, v, func(w io.Writer) error {
				revision := ""
				if v.Revision != "" {
					revision = v.Revision[:min(12, len(v.Revision))] + ", "
				}
				_, err := fmt.Fprintf(w, "kubelogexporter %s (%s%s, %s)\n", v.Version, revision, v.GoVersion, v.Platform)
				return err
			})
		}),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	complete(cmd, "output", words("json", "yaml"))
	return cmd
}
