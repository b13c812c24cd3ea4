"""Beyond one machine: a collection in shards, described and searched by the nodes of a Ray cluster."""
