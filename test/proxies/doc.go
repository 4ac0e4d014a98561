// Package proxies tests nodes with real proxies between them: haproxy, nginx, caddy and Apache.
package proxies
