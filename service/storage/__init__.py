"""Where everything durable is kept: tables, queries, connections, and the one writer."""
