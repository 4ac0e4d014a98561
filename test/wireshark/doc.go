// Package wireshark tests the dissector of contrib/wireshark with tshark, on the messages of testdata.
package wireshark
