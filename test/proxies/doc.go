// Package proxies tests nodes with real proxies between them: haproxy, nginx and caddy.
package proxies
