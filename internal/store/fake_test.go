package store

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// fakeEntry is a record of the watch, said by a test.
type fakeEntry struct {
	key   string
	op    string // put or del
	rev   uint64
	value []byte
}

func (e fakeEntry) Bucket() string     { return "x" }
func (e fakeEntry) Key() string        { return e.key }
func (e fakeEntry) Value() []byte      { return e.value }
func (e fakeEntry) Revision() uint64   { return e.rev }
func (e fakeEntry) Created() time.Time { return time.Time{} }
func (e fakeEntry) Delta() uint64      { return 0 }
func (e fakeEntry) Operation() jetstream.KeyValueOp {
	if e.op == "del" {
		return jetstream.KeyValueDelete
	}
	return jetstream.KeyValuePut
}
