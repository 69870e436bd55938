"""`brim bench`: an honest load generator. `process.run(plan)` is the way in."""
