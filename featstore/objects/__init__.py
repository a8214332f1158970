"""Files behind an address: buckets, web servers and the hub, read with bounds and care."""
