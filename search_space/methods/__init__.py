"""One file for each PEFT method, each giving one `METHOD`; `search_space.registry` collects them."""
