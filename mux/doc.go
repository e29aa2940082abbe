// Package mux carries many streams over one connection, or over several that
// come and go.
//
// A [Conn] runs over one net.Conn, usually TLS, whose two ends call [Client]
// and [Server]. Either side opens streams and the other accepts them. A
// [Stream] is a net.Conn with a true half-close and a reset that carries a
// code. The protocol is our own, described in docs/protocol.md and in the
// constants of frame.go; its stream states, flow control and final sizes
// follow RFC 9000, sections 2 to 4.
//
// # What it promises
//
// The reader of the connection never waits for the application, so a stream
// that nobody reads holds up nobody else. What it may hold is bounded: by a
// window per stream, which grows only as long as it is what limits the
// stream, by one budget per connection, and if wanted by a [Pool] for many
// connections. Small exchanges go before bulk, and bulk streams take turns.
// A connection that breaks is an error on every stream, never a clean io.EOF.
//
// # Lanes
//
// If both ends set [Config.Keep], a Conn outlives the net.Conn it began with.
// Each net.Conn is then a [Lane], and [Conn.Join] adds one. What was sent is kept
// until the peer has acknowledged it. When a lane breaks, falls silent or is
// given up, what is missing is sent again over another one or over the next,
// and the streams notice nothing but the time that it takes. A Conn that stays
// without a lane for [Config.Resume] ends. So one mechanism gives a Conn that
// survives its network ([Conn.Adrift]), one that changes it without a pause (join
// the new lane, then [Lane.Leave] the old), and one whose bulk does not stand in
// the way of what is small ([Conn.WantLane]).
//
// Over TCP on Linux, a Conn keeps the socket's send queue short, if it is
// given the socket itself or something like crypto/tls that says what it is
// made of (NetConn).
//
// # Stopping
//
// A Conn owns two goroutines and a timer for each of its lanes. [Conn.Shutdown] stops taking
// streams, tells the peer, waits for the streams that are left and closes;
// [Conn.Close] closes now. Both return when the goroutines have ended.
//
// # What it does not do
//
// It does not dial, encrypt, authenticate or compress, and it knows nothing
// of what its streams carry. Streams have no priorities to be set: what they
// have sent lately decides. It does not find out whether a lane that joins leads
// to the right peer: a Join is for who has made sure of that.
package mux
