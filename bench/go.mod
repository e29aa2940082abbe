module github.com/culvertd/culvert/bench

go 1.26.6

require (
	github.com/culvertd/culvert v0.0.0
	github.com/hashicorp/yamux v0.1.2
	github.com/libp2p/go-yamux/v5 v5.1.0
	github.com/quic-go/quic-go v0.65.0
	github.com/xtaci/smux v1.5.58
	golang.org/x/sys v0.49.0
)

require (
	github.com/libp2p/go-buffer-pool v0.0.2 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.62.0 // indirect
)

replace github.com/culvertd/culvert => ../
