// Package sim is the simulation: tests that run whole grids in virtual time, on the network of
// internal/simnet. See docs/testing.md.
package sim
