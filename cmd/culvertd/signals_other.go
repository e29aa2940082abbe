//go:build !unix

package main

import "syscall"

// Nobody sends these here.
const reloadSignal, upgradeSignal = syscall.SIGHUP, syscall.SIGPIPE
