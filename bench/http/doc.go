// Command http compares HTTP through Culvert with HTTP through proxies that
// have no tunnel: nginx's proxy_pass, and Go's httputil.ReverseProxy.
//
//	go run ./http -only '^plain' -rounds 3 -duration 10s
//
// It prints one Markdown table, with the bars that Culvert has set itself, and
// on stderr what it is doing and every single figure. All run at the same time
// on this machine's loopback and are measured in turn, A, B, C, then B, C, A, so
// that a slow moment of the machine, or what the one before has left behind,
// meets all of them. Figures are medians; the ratios are what counts. A bar
// that is missed is for people to see. A run in which anything but 200 was
// answered, or a connection broke, is no figure: it fails, and the exit code
// says so in the end. Interrupt stops everything.
//
// The service is an nginx with a file of 1 KB and one of 1 GB, and for uploads a
// counter written in Go; all contestants have the same. The nginx that is
// compared is that very nginx: a worker can be its own service, which spares it
// switching between processes, and Culvert nothing. How it is tuned stands in
// nginx.go, how ReverseProxy is in proxy.go. All have the same certificate, TLS
// 1.3 and AES-128.
//
// Agents reach their node by TLS in all runs. Where visitors have TLS too, node
// and agent are culvertd and culvert as they are built for use. For visitors
// without TLS a culvertd would want to stand behind a front end that agents
// come through as well; so there the node is this program (node.go), made of
// culvertd's own parts and with a second, plain door to the same tunnels. The
// agent is culvert.
//
//	-cpuprofile DIR   a profile of node and agent for each line and round of
//	                  Culvert's. Both are then this program: what is on
//	                  the table differs a little from what is without.
//
// It is for Linux, and needs nginx, wrk and h2load: see bench/setup.sh.
package main
