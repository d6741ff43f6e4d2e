"""The tables of a gallery in PostgreSQL. A change is one more entry at the end; what stands here stays as it is."""

MIGRATIONS = (
    # 1
    """
    CREATE TABLE facerec.gallery (
        one boolean PRIMARY KEY DEFAULT true CHECK (one),  -- a database holds one gallery
        version bigint NOT NULL DEFAULT 1,                 -- grows with every change
        dim integer NOT NULL,
        about jsonb NOT NULL,   -- space, detector, failures, gate, lookalikes: as in the header of a file
        widths jsonb NOT NULL   -- of the arrays of strings of a file: it comes back byte for byte
    );
    CREATE TABLE facerec.photo (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        label text NOT NULL,
        digest text NOT NULL,             -- sha256 of the crop
        copy integer NOT NULL DEFAULT 0,  -- 1, 2 … where a file that was imported held the photo more than once
        source text NOT NULL,
        split text NOT NULL,
        quality real,
        added text NOT NULL,
        vector vector NOT NULL,
        crop bytea,
        UNIQUE (label, digest, copy)
    );
    CREATE INDEX photo_source ON facerec.photo USING hash (source);
    -- no statistics, in which names and vectors would outlive the photos; PNGs are compressed already
    ALTER TABLE facerec.photo
        ALTER label SET STATISTICS 0, ALTER digest SET STATISTICS 0, ALTER source SET STATISTICS 0,
        ALTER vector SET STATISTICS 0, ALTER vector SET STORAGE PLAIN,
        ALTER crop SET STATISTICS 0, ALTER crop SET STORAGE EXTERNAL;
    ALTER TABLE facerec.gallery ALTER about SET STATISTICS 0;
    """,
)
