// The mongo image runs this once, for an empty volume: the pipeline's user of its own database.
db.getSiblingDB("income").createUser({
  user: "income",
  pwd: require("fs").readFileSync("/run/secrets/mongo_password", "utf8").trim(),
  roles: [{ role: "readWrite", db: "income" }],
});
