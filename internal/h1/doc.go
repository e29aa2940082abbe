// Package h1 reads HTTP/1.1 messages strictly and writes them canonically.
//
// A [Reader] takes the messages of one connection apart: heads as [Request] or
// [Response], bodies in pieces and without their framing. It serves both sides
// of the edge, for a service is a stranger as much as a visitor is. What it
// accepts has one meaning only: the grammar of RFC 9110 and RFC 9112, without
// what they let a recipient forgive where two recipients could forgive
// differently. So a lone line feed, a folded line, a space before a colon,
// a repeated Content-Length and Content-Length beside Transfer-Encoding are
// errors, and they are errors as soon as they can be seen. The Append functions
// write messages in one spelling, which the Reader and every other parser read
// in the same way; they panic before they write anything else.
//
// Heads are looked at once, in the Reader's buffer, and nothing is allocated in
// the steady state. Names, values and pieces of bodies point into that buffer;
// each says how long it is valid.
//
// # Stopping
//
// A Reader starts no goroutine and is not for concurrent use. It blocks where
// its io.Reader blocks and sets no deadlines: those are the caller's, who also
// closes the connection, and hands back the Reader's buffers with
// [Reader.Release]. While a connection is idle, [Reader.Wait] holds none.
//
// # What it does not do
//
// It decides nothing about what a message means beyond its framing and its
// connection: which fields belong to this hop is said ([Kind.Hop],
// [Head.Named]), removing them is the caller's. It does not know which names
// are hosts, does not decode targets, sends no answers and counts no interim
// ones. HTTP/0.9, CONNECT, transfer codings but chunked, and HTTP/2 are
// refused.
package h1
