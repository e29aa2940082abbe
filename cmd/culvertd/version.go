package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func (c *cli) versionCommand() *cobra.Command {
	return c.command("version", "Print the version", atMost(0), func(context.Context, []string) error {
		_, err := fmt.Fprintf(c.out, "culvertd %s %s/%s %s\n", version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
		return err
	})
}

// version is what the build was told of itself.
func version() string {
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" && b.Main.Version != "(devel)" {
		return b.Main.Version
	}
	return "devel"
}
