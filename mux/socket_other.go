//go:build !unix

package mux

import "net"

func shortenQueue(net.Conn) {}
