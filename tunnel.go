package culvert

// A Tunnel is a public name to be held. The zero value asks for a random one.
type Tunnel struct {
	// Name is the first label of the public host name: "blog" is
	// blog.tunnel.example.com on the node tunnel.example.com. It belongs to
	// the owner of the token that took it first. Empty means that the node
	// chooses one that nobody can guess; it is kept across reconnects.
	Name string

	// HostHeader is what the service gets as Host, for services that answer
	// only to a name they know. Empty means the public one that the visitor
	// asked for.
	HostHeader string
}
