package name

// Reserved reports whether a canonical name is kept for the node and its
// domain. Reserved names are those that software looks up unasked (a web page
// at wpad.DOMAIN would configure the network of everybody beside it), that mail
// and certificate authorities send secrets to, and that a visitor would take
// for the operator.
func Reserved(name string) bool {
	switch name {
	case
		// Looked up by programs, without anybody asking for them.
		"autoconfig", "autodiscover", "isatap", "mta-sts", "openpgpkey", "wpad",
		"broadcasthost", "localdomain", "localhost", "local",

		// Hosts of the domain itself.
		"www", "www1", "www2", "ftp", "sftp", "ssh", "vpn",
		"mail", "email", "webmail", "mx", "smtp", "imap", "pop", "pop3",
		"dns", "ns", "ns0", "ns1", "ns2", "ns3", "ns4",

		// Addresses that prove control of a domain (RFC 2142, CA/B baseline).
		"abuse", "admin", "administrator", "hostmaster", "info", "is", "it",
		"mis", "noc", "no-reply", "noreply", "postmaster", "root", "security",
		"ssladmin", "ssladministrator", "sslwebmaster", "support", "sysadmin",
		"usenet", "webmaster",

		// Where a visitor expects to meet the operator, and types a password.
		"account", "accounts", "api", "auth", "billing", "console", "dashboard",
		"login", "oauth", "register", "signin", "signup", "sso",

		// Our own words.
		"acme", "agent", "connect", "culvert", "culvertd", "edge", "metrics",
		"node", "peer", "router", "session", "tunnel":
		return true
	}
	return false
}
