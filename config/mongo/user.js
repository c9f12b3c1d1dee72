// Run once by the mongo image, in an empty volume: the one user of the pipeline, for its own database.
db.getSiblingDB("income").createUser({
  user: "income",
  pwd: require("fs").readFileSync("/run/secrets/mongo_password", "utf8").trim(),
  roles: [{ role: "readWrite", db: "income" }],
});
