"""Topics → columns → ClickHouse, exactly once; and questions to it: the sink, the engine, the HTTP endpoint."""
