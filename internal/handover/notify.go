package handover

import (
	"fmt"
	"net"
	"strings"
	"time"
)

// Notify tells systemd (sd_notify(3)) at socket, which is NOTIFY_SOCKET; empty
// means that it did not ask to be told.
func Notify(socket string, states ...string) {
	if socket == "" {
		return
	}
	if rest, ok := strings.CutPrefix(socket, "@"); ok {
		socket = "\x00" + rest
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return // it will notice
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	conn.Write([]byte(strings.Join(states, "\n")))
}

// Reloading is what Notify says at the beginning of what READY=1 ends.
func Reloading() string {
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic().Microseconds())
}
