//go:build unix

package main

import "syscall"

const reloadSignal, upgradeSignal = syscall.SIGHUP, syscall.SIGUSR2
