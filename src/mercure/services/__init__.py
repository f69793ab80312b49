"""The services: receiver, router, processor, dispatcher. Each is an object that runs alone or beside the others."""
