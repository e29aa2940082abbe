//go:build !linux

package netwatch

import "context"

func watchRoutes(context.Context, chan<- struct{}) {}
