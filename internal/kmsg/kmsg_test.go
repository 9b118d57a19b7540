package kmsg

import "testing"

func TestFormat(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"6,339,5140900,-;NET: Registered protocol family 10\n SUBSYSTEM=net\n", "[    5.140900] NET: Registered protocol family 10\n"},
		{"30,340,12345000001,-,caller=T1;two; semicolons\n", "[12345.000001] two; semicolons\n"},
		{"6,1,0,-;\n", "[    0.000000] \n"},
		{"6,1,0,-;no newline", "[    0.000000] no newline\n"},
	} {
		got, ok := format([]byte(tt.in))
		if !ok || string(got) != tt.want {
			t.Errorf("format(%q) = %q, %v, want %q", tt.in, got, ok, tt.want)
		}
	}
	for _, bad := range []string{"", ";", "6,1,0;x", "6,1,x,-;y", "no separator"} {
		if got, ok := format([]byte(bad)); ok {
			t.Errorf("format(%q) = %q, want it refused", bad, got)
		}
	}
}

func FuzzFormat(f *testing.F) {
	f.Add([]byte("6,339,5140900,-;text\n"))
	f.Fuzz(func(t *testing.T, b []byte) { format(b) })
}
