// Package e2e tests the two programs as their users meet them: both real
// binaries, real sockets, real TLS with certificates that are checked, and
// services and visitors that nobody here wrote (nginx, DokuWiki, Vite,
// Chromium). It has no code of its own beside the tests, but for the two sides
// of TestGRPC, in a module of their own.
//
// Some of the tests keep a score against what others agreed on (the framing
// corpus, h2spec, RFC 9110 and 9112, WebSocket, gRPC): tools/conformance.sh
// runs these alone. Their visitors and services read and write bytes, because
// libraries forgive.
//
// Every test has its own node in a temporary directory, on free ports of
// 127.0.0.1, and ends every process that it started; when it fails it shows
// what each of them said. What the tests need is installed by setup.sh, which
// make test runs. With -short the ones that need other people's programs, or
// move gigabytes, are left out.
package e2e
