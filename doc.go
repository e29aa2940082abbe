// Package culvert is the agent: it gives a service that nobody outside can
// reach a public name, on a node (culvertd) that everybody can.
//
// An [Agent] holds one encrypted connection to its node. [Agent.Listen] opens a
// [Tunnel] and returns a net.Listener at a public URL: what http.Serve can do
// with any listener, it can do with this one. [Forward] serves a listener by
// joining every visitor with a service at some address.
//
//	agent := &culvert.Agent{Server: "tunnel.example.com", Token: token}
//	defer agent.Close()
//
//	ln, err := agent.Listen(ctx, culvert.Tunnel{Name: "blog"})
//	if err != nil {
//		return err
//	}
//	fmt.Println(ln.URL())
//	return http.Serve(ln, handler) // or culvert.Forward(ctx, ln, culvert.Service{Target: "3000"})
//
// # Staying connected
//
// An agent that lost its node comes back by itself: the first time within a
// quarter of a second, then after random waits that double up to 30 seconds. It
// asks the name server anew each time and keeps its names, random ones too.
// Everything is retried, except what will be the same for ever: a refusal of
// the node that is final ([RefusedError]), and a certificate that does not
// prove the node to be the one that was asked for, as long as there has been no
// session at all.
//
// # What it trusts
//
// The certificate of the node is always verified. TLS with a node is 1.3; with a
// front end before it, which terminates TLS in its place, 1.2 will do. The node is
// trusted with the visitors' bytes, and with nothing else: it cannot make an
// agent dial anything, for a stream names no address, and the only address that
// [Forward] dials is the one it was given.
//
// # Stopping
//
// [Listener.Close] gives up one tunnel, [Agent.Close] all of them and the
// connection. When Agent.Close returns, nothing that the agent started is left.
//
// # What it does not do
//
// It reads no files, flags or environment; the culvert command does. It changes
// no byte that passes, and looks at none but the beginnings of answers with
// which a service refuses a host ([EventHostUnknown]).
package culvert
