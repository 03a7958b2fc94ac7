"""An OpenAI-compatible server: many clients, one engine, a memory budget fixed beforehand."""
