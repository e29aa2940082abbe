//go:build linux || darwin || freebsd || netbsd || openbsd

package server

import (
	"io/fs"
	"syscall"
)

func owner(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }
